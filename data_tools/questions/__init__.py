"""`python -m data_tools.questions`: papers to question-and-answer conversations."""
