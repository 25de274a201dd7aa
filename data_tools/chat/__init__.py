"""`prepare chat`: conversations in anybody's format to tokens and masks."""
