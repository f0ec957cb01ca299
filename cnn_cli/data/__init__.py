"""Data: from a name or a folder to images as bytes, resized once to the network's input, and to batches of pixels.

dataset: a data set and its splits. catalog: the named data sets; folder: folders of images. loading: splits and class
names. decoding, preprocessing: from a file to the network's input. preparation: all of that before training begins.
augmentation, batches: the images of an epoch.
"""
