package config

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/hashicorp/hcl/v2/hclsyntax"
)

// cidrs reads the networks that b names in its attribute "cidrs". An address alone is
// a network of one.
func (l *loader) cidrs(b *hclsyntax.Block, texts []string) []netip.Prefix {
	if where := at(b, "cidrs"); written(b, "cidrs") && len(texts) == 0 && !l.spoilt(where) {
		l.mistake(where, "The list of networks is empty: nobody calls from there", "Name some, or leave it out for everywhere.")
	}
	var found []netip.Prefix
	for i, text := range texts {
		where := element(b, "cidrs", i)
		prefix, ok := network(text)
		switch {
		case !ok:
			l.mistake(where, fmt.Sprintf("%q is no network", text), `Write for instance "10.20.0.0/16", "2001:db8::/32" or "10.1.2.3".`)
		case prefix != prefix.Masked():
			l.mistake(where, fmt.Sprintf("The network %q has bits beyond its length", text), fmt.Sprintf("Is %q meant, or %q?", prefix.Masked(), prefix.Addr()))
		case slices.Contains(found, prefix):
			l.mistake(where, fmt.Sprintf("The network %q is listed twice", text), "Remove one.")
		default:
			found = append(found, prefix)
		}
	}
	return found
}

// network reads a CIDR or an address. What says an IPv4 address in IPv6's form is
// refused: it would never match, as callers' addresses are compared in their own form.
func network(text string) (netip.Prefix, bool) {
	prefix, err := netip.ParsePrefix(text)
	if err != nil {
		addr, err := netip.ParseAddr(text)
		if err != nil || addr.Zone() != "" {
			return netip.Prefix{}, false
		}
		prefix = netip.PrefixFrom(addr, addr.BitLen())
	}
	return prefix, !prefix.Addr().Is4In6()
}

// proxies reads the addresses whose word is taken for where a call comes from. They
// are exact: whoever else is in such a network could say anything.
func (l *loader) proxies(b *hclsyntax.Block, texts []string) []netip.Addr {
	var found []netip.Addr
	for i, text := range texts {
		where := element(b, "trusted_proxies", i)
		prefix, ok := network(text)
		switch {
		case !ok || prefix.Addr().IsUnspecified():
			l.mistake(where, fmt.Sprintf("%q is no address of a proxy", text), `Write its address, such as "10.1.2.3" or "10.1.2.3/32".`)
		case !prefix.IsSingleIP():
			l.mistake(where, fmt.Sprintf("%q is a whole network", text),
				"Whoever is in it could say that a call comes from anywhere: name the exact address of each proxy.")
		case slices.Contains(found, prefix.Addr()):
			l.mistake(where, fmt.Sprintf("The proxy %q is listed twice", text), "Remove one.")
		default:
			found = append(found, prefix.Addr())
		}
	}
	return found
}
