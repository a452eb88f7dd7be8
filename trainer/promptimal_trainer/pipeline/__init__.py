"""The 2023 process as a tool: mine, propose, score, refine, select; each stage reads and writes JSON lines, and pays for nothing twice.

A stage is a pure function of its input file and the store (`store`), which holds the answer to every request under the hash of all that
determines it. So a run that was killed goes on where it was, and the same input and store give the same bytes.
"""
