"""Perceval: a perception-centric process reward model, in training and at test time (arXiv 2604.24583).

Built on the public names of mmcredit, which finds its components through the entry-point group `mmcredit.components`
and never imports this package.
"""
