"""The masked auto-encoder over 3-D patches of space-time-frequency channels that HeterCSI and WiFo are."""
