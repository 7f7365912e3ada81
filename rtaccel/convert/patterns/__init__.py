"""Which operator a call of ATen becomes: one rule for each kind of call, in the file of its family.

Data: a call with its views -> a node, or the sentence why it stays with torch. These files alone name operators.
"""
