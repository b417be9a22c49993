"""Descriptions of neurons, by many methods, and how well they tell when one fires (chapter 10).

What reads weights is in :mod:`.weights`, what reads text in :mod:`.exemplars`, all of them together
in :mod:`.methods`. Lists of tokens are judged by :mod:`.trials`, prose by :mod:`.judge`.
"""
