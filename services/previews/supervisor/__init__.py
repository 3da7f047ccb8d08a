"""The process beside each preview that starts its program and sees to it that nothing of it survives.

It runs as `python -I -S` with the standard library alone (10 MB, 25 ms), one for each preview, and belongs
to nobody but the service: a pair of connected sockets is all that is between them. When the service dies,
however it dies, that pair breaks, and the supervisor ends the program, removes its files and goes.

`main` is its life, `confine` what a program's own process does to itself before it becomes the program,
`watch` looks after memory, processes and disk, `ending` ends, `proc` reads /proc, `files` measures and removes.
`launch` uses the last three for what a killed service and a killed supervisor have left behind.
"""
