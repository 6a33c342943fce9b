package main

var codes = map[string]bool{"42P01": true, "57014": true, "ABCDE": false}
