"""The stages of an export: plan, reference, variants, gate, goldens."""
