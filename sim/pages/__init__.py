"""Pages to look at: a counterexample, and what a command found, in one file of HTML."""
