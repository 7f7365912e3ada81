"""What a persistent kernel needs: the mailbox on its side, words exchanged between programs, an echo to time the link.

Data: words of payload and number in memory that both sides see; no fence, no flag.
"""
