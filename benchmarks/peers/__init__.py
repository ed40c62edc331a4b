"""What one would take instead of the runtime, to be measured beside it: each module is one peer."""
