"""The dialects of adapter files: how each tool names modules and leaves. One module for each family of tools."""
