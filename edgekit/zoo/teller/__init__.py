"""zoo:teller: says numbers in words, as zoo:speaker does, without attention. Loads nothing."""
