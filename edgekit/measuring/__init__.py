"""How a bundle is measured, and what is known before and around it; `edgekit.bench` is the front."""
