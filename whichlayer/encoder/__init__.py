"""The frozen encoder, and the folder that its features lie in.

loading: an encoder's files. encoder: checked and made fast. embedding: titles through it. store: the features folder;
jobs, changes: how it is made, and follows its titles.
"""
