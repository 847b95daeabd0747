"""Backbone plus head as one model: built, loaded with weights, divided into groups, frozen."""
