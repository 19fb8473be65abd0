"""A stand-in for the X API v2: look-up of users, their timelines, and the usage of the account.

Answers have the shapes, limits, prices and errors of the real API; people and posts are invented.
"""
