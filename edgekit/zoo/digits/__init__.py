"""zoo:digits, a ResNet that reads handwritten digits."""
