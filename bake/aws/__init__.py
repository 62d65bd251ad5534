"""EC2, and the only importer of boto3: what is asked of AWS, and what AWS answered."""
