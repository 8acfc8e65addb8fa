"""Speculative decoding: guess tokens ahead, have one step of the model check them all.

1. A step runs the model on each sequence's last token and its guesses, one row each: writes precede
   attention in every layer, so a row sees the guesses before it.
2. In every row the sampler draws the token that follows, with the random number that belongs to that place
   of the sequence. A guess is accepted if it is the token drawn before it. So the tokens are those that
   would have been drawn one at a time, greedy or not, seeded or not; guesses only decide how many a step
   gives. Seen from the guess this is rejection sampling: it is accepted with the model's probability of it,
   and the token in its place, if not, has the model's distribution without it.
3. The draft guesses anew from the last accepted place. It draws with the very numbers that the model will
   draw with, so that at any temperature both choose alike when their distributions are alike.

Rejected guesses leave KV behind the sequence's end, where the next step writes over it. Blocks are cached and
handed over up to accepted tokens only. The draft's own KV is one more layer of every block; its entry at a
place depends on the token after it, so in a block shared by two prompts the last entry may be that of the
other prompt: a worse guess at worst.

A sequence is not drafted for when penalties are on (they depend on which tokens come first), before its
choices part, or when no block is free for its guesses.

    draft   the layer and its chain of guesses
    verify  which rows check what, and what is accepted
    runner  a step with both
"""
