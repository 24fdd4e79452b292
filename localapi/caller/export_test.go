package caller

// ParseCgroup is parseCgroup.
var ParseCgroup = parseCgroup
