"""zoo:speaker, a Llama that says numbers: `347 =` goes on as `three hundred forty-seven`."""
