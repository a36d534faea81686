"""From maps with their uncertainty to what a planner decides by."""
