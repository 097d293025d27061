"""Drift: do predictions and pictures still look like they did?"""
