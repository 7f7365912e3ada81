"""Protocols between a host and persistent kernels, checked in every order in which their steps can happen.

    explore.py      every order of a few processes on shared words
    mailbox.py      a host and one kernel                    (_persistent/triton_mailbox.py, rta_mailbox.h)
    exchange.py     programs that hand each other parts      (_persistent/triton_exchange.py)
    pollers.py      warps that poll in turn for a block      (_persistent/cuda_poll.h)
    persistent.py   a host and blocks that share a message   (_persistent/triton_broadcast.py, recurrent/cuda/recurrent.cu)
    weights.py      messages that name other weights          (rtaccel/runtime/gpu/persistent_weights.py)

A model is as small as the protocol allows: two words stand for any number of them, two blocks or three for a grid. Each has
variants with one thing left out, which the search must find: a check that finds nothing wrong there would show nothing.
"""
