"""What launch/chat.py opens: a model one can talk to, a page on which two are compared."""
