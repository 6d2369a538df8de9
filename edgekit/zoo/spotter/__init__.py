"""zoo:spotter, a DistilBERT that finds numbers written in words in running text, and says of which kind they are."""
