package main

func tool() { main() }
