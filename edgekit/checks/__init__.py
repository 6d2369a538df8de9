"""Whether a variant gives its known answers: goldens, the samples in them, batches, and the first load on a device."""
