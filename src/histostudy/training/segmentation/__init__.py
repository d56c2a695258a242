"""Segmenters learned from annotations drawn in QuPath, without code."""
