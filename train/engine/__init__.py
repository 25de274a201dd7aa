"""The model on many ranks: ZeRO-3 slices, loaded and verified, and one optimizer step."""
