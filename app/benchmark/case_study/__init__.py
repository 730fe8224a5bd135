"""`tierwise bench case-study`: a case of cost and latency, before and after Tierwise, played end to end on this
machine."""
