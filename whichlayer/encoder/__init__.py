"""The frozen encoder, and the folder that its features lie in.

loading: an encoder's files. poolings: from states to a vector. embedding: titles through an encoder.
encoder: it is checked and made fast. store: the features folder. folder: how that is made, and follows its titles.
"""
