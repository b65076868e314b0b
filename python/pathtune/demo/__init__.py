"""The demo: the shipped model meets another molecule at another level of theory. Data files lie beside this one."""
