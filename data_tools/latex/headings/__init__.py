"""Where the sections of a paper begin, however their headings are spelled or set, and what their titles mean."""
