"""OpenVINO: sessions, paged attention, compile cache."""
