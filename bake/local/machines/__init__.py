"""The machines of the local cloud: containers that boot as EC2's machines do."""
