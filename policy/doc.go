// Package policy decides, from plain data alone, who may do what on which paths
// (access policies) and how matched secrets must rotate (rotation policies).
//
// Both kinds name secrets by the same patterns, with Vault's syntax and
// priorities: a pattern is a literal path; "*" at its end matches any rest; "+"
// in place of a segment matches that one segment whatever it is. Where several
// patterns match, the most specific one alone decides: an exact path; else the
// one whose first wildcard comes later; then one without a trailing "*"; then
// one with fewer "+"; then the longer; then the lexicographically greater.
//
// A rule of an access policy may have templates in its path, which are filled in
// with who asks before anything is compared, and conditions, which say whether it
// holds but not which path decides. A missing value or fact matches nothing.
//
// Access policies are compiled for an identity into an ACL, whose decisions cost
// what the path costs, however many policies there are, and allocate nothing.
//
// Unlike in Vault, what is no secret lives below "sys/", and only a pattern that
// itself begins with "sys/" matches anything there: "*" means all secrets, never
// the broker's own controls.
package policy
