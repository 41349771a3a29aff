"""`hpsearch confirm`: the best configurations trained anew with several seeds, then tested once.

plan.py         which configurations, and the linked study that trains them
statistics.py   means, intervals, paired comparisons: pure numbers
exam.py         the test part, opened
stored.py      what is kept in the studies' attributes, openings of the test part among it
summary.py      what came of it, as values
words.py        the same in sentences and tables
confirm.py      all of it in order
refit.py        the answer trained once more, on training and validation part
continuation.py  a finished trial trained to more epochs, from its checkpoint
"""
