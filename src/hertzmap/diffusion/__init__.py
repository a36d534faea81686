"""Noise becomes a sample; knows no radio."""
