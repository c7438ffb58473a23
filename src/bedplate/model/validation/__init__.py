"""What is wrong with what users declare: one fault per error, with its field, what was wrong and what would be right.

Pure: `shape` looks at raw JSON, `single` at one object, `together` at objects among all others, `change` at edits and
deletions. Import from these modules.
"""
