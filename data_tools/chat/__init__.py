"""`prepare chat`: conversations to tokens and masks."""
