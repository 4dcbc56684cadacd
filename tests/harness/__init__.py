"""Starts and watches real brokers, MirrorMakers and daemons: for the demo, the end-to-end tests and the benches.

    paths    where things lie in the checkout and in the cache
    ports    the addresses of a region, and whether they are free
    wait     wait_until: the only way anything here waits
    process  one child process with a log file and a pid file
    kafka    a broker; topics
    mirror   MirrorMaker beside its target
    delay    distance between regions: a TCP delay line
    daemon   our own daemons
    region   all of the above for one region, and a World of several
    cli      what ./dev calls
"""
