"""The functions of `import tfmpq`, one file a verb."""
