"""Data: a name or a folder becomes images as bytes, resized once to the network's input, then batches of pixels.

dataset: a data set and its splits. catalog: the named data sets; folder: images of one's own. loading: splits and class
names. decoding, preprocessing: from a file to the network's input. preparation: all of it before training begins.
augmentation, batches: what each epoch sees. Train is for learning, val for choosing, test for reporting.
"""
