audit "file" {
  path = "a.jsonl"
}
audit "file" {                    # ERROR: There is a second audit "file". Give each a name of its own: audit "file" "NAME" { … }.
  path = "b.jsonl"
}
audit "file" "c" {
  path = "c.jsonl"
}
audit "splunk_hec" "c" {          # ERROR: There is a second audit "c"
  url = "https://splunk.example.com"
}
audit "splunk" {                  # ERROR: There is no audit "splunk". Known are file, splunk_hec.
  url = "https://splunk.example.com"
}
audit "splunk_hec" {
  url   = "https://splunk.example.com"
  token = "secret"                # ERROR: A literal where a secret belongs
}
audit "file" "a/b" {              # ERROR: "a/b" is no name for a audit
  path = "d.jsonl"
}
audit {                           # ERROR: A audit block has 2 labels, here are 0
  path = "e.jsonl"
}
