"""Containers: files of other tools opened as data, every size bounded before it is believed."""
