"""What calls a system: a program for each, run in that system's own environment (standard library, NumPy, the peer).

serving.py   commands and answers       caller.py   what every system is asked to do
tasks.py     what is called             arrays.py   large inputs
"""
