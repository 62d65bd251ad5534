"""EC2 and the other AWS APIs. No other package imports boto3."""
