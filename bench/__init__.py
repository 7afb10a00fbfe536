"""Measurements that need more than this project: other graders, and assignments made for measuring. Not installed."""
