"""Multiple-choice questions: by the likelihood of letters and of answers, and by a letter that is written."""
