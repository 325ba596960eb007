# Turns docs/configuration.md into what lowdown makes trunkline.toml(5) of: a table of five columns has no room on a
# terminal, so each of its rows becomes an entry. Fails at a row that it cannot read.

BEGIN { FS = "|" }

# Other pages are beside it on a disk, not in a manual: their names stay, links go.
{ while (match($0, /\]\([^h)][^)]*\)/)) $0 = unlinked($0, RSTART, RLENGTH) }

function unlinked(line, at, long,   from) {
  from = at
  while (substr(line, from, 1) != "[") from--
  return substr(line, 1, from - 1) substr(line, from + 1, at - from - 1) substr(line, at + long)
}

function trimmed(cell) {
  gsub(/^ +| +$/, "", cell)
  return cell
}

NR == 1 { print "# NAME\n\ntrunkline.toml - configuration of trunkline(8)\n\n# DESCRIPTION"; next }
/^## / { sub(/^## /, "# ") }
/^\|---/ || /^\| key / { next }
/^\|/ {
  if (NF != 7) { print FILENAME ":" NR ": a row of " NF - 2 " columns, not five" > "/dev/stderr"; exit 1 }
  meaning = trimmed($3); fallback = trimmed($4); limits = trimmed($5)
  print trimmed($2) "\n\n: " meaning ". *Default*: " fallback (limits == "" ? "" : ". *Limits*: " limits) ". *Example*: " trimmed($6) "\n"
  next
}
{ print }
